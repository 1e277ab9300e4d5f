"""The paper's figures for any checkpoint and data set, as PNG files; the command is `sdtc-visualize`.

In: a network, annotations in PoseTrack's layout, and the selected clip, keyframe and person (`scene.FigureScene`).
Out: one page per figure (`panels.Page`), to save as PNG.

`selection` selects clip, keyframe and people, `inside` records features of a network, `figures` draws each figure from
arrays with the elements of `panels`, and `scene` computes those arrays.
"""
