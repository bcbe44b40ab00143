"""The published contract between daemon and clients. Loads nothing by itself."""
