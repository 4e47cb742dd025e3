"""Planted errors: what the checks of the notebooks and the tests of the package catch. Run by ``make mutants``."""
