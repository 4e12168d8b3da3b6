"""The routes of the edge, one module for each area."""
