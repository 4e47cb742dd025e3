"""The first draft of a notebook: its sections in their order."""

from __future__ import annotations

from kexue_nb.checkout import Post

_TEMPLATE = """\
# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # {title}
#
# [{original}]({url}) · {date} · Su Jianlin
#
# [![Open in Colab](../../book/_static/colab.svg)]({colab})
#
# **The point.** At most five lines, and the one figure that shows it.

# %% tags=["nbval-ignore-output"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "git+{repository}"], check=True)

import sympy as sp

import kexue_nb
from kexue_nb import symbolic as sym

nb = kexue_nb.notebook("{slug}")

# %% [markdown]
# ## The question
#
# The question with its intuition, the notation, and where this notebook sits among the others.
#
# ## The derivation
#
# Prose and formula first, then the check of just that step, starting from the definition.

# %%
x, a = sp.symbols("x a", positive=True)
nb.derivation("D1", "The derivative of x^a is a x^(a-1).", sym.identity("power rule", sp.Derivative(x**a, x), a * x ** (a - 1)))

# %% [markdown]
# ## The algorithm
#
# ## Experiments
#
# ## The paper's numbers beside ours
#
# ## Beyond the post
#
# ## What does not hold
#
# ## Exercises
#
# ## The ledger

# %%
nb.ledger()

# %% [markdown]
# ## References
"""


def notebook_source(post: Post, repository: str) -> str:
    """A py:percent notebook for ``post`` that executes as it is."""
    where = repository.removeprefix("https://github.com/")
    colab = f"https://colab.research.google.com/github/{where}/blob/main/{post.document}.ipynb"
    return _TEMPLATE.format(
        title=post.title, original=post.original, url=post.url, date=post.date, slug=post.slug, colab=colab, repository=repository
    )
