"""sdtc: video human pose estimation that deploys.

`sdtc.model` is the network (needs torch), `sdtc.export` turns a checkpoint into an engine bundle,
`sdtc.runtime` turns a bundle and a video into poses (never needs torch).
"""

__version__ = "0.1.0"
