"""Reads runs; draws their tables and figures. Everything here can be drawn again from the samples alone."""
