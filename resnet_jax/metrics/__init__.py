"""Sums and counts on the device, divided once on the host; a report by scikit-learn; writers."""
