"""What runs a graph: one module a backend, behind one interface (`session`), each importing its library when opened.

In: a bundle's files and what the user asked for (`choice`, `probe`). Out: sessions that take and give arrays.
"""
