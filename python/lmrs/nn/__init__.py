"""Modules: the parts models are assembled from, written in the ops."""
