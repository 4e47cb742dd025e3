# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Sharing the embedding at the language-model output, revisited
#
# [语言模型输出端共享Embedding的重新探索](https://kexue.fm/archives/9698) · 2023-07-20 · Su Jianlin
#
# [![Open in Colab](../../book/_static/colab.svg)](https://colab.research.google.com/github/kexue-nb/kexue-nb/blob/main/notebooks/depth/shared-embedding.ipynb)
#
# **The point.** At most five lines, and the one figure that shows it.

# %% tags=["nbval-ignore-output"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "git+https://github.com/kexue-nb/kexue-nb"], check=True)

import sympy as sp

import kexue_nb
from kexue_nb import symbolic as sym

nb = kexue_nb.notebook("shared-embedding")

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
