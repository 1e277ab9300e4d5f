"""Backends that run a graph: one module each, behind one interface (`session`), importing its library when opened.

In: a bundle's files and what the user asked for (`choice`, `probe`). Out: sessions, which run a graph on arrays.
"""
