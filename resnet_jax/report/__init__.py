"""Figures and tables from run folders alone: files in, files out, no JAX."""
