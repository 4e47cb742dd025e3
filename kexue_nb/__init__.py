"""Helpers of the executable edition of 37 posts of Scientific Spaces.

A notebook opens with ``nb = kexue_nb.notebook("<slug>")``; everything else is imported from the modules by name.
"""

from kexue_nb.notebook import Notebook, notebook

__all__ = ["Notebook", "notebook"]
__version__ = "0.1.0"
