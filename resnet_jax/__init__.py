"""Train plain and residual nets under one recipe, and measure what skip connections do."""

__version__ = "0.1.0"
