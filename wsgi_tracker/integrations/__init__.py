"""Route templates for frameworks that leave none in ``environ``: one module, and one line, each.

A module imports its framework, and nothing of this package imports the module.
"""
