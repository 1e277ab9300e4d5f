"""The paper's figures of any clip and checkpoint, as PNG; the command is `sdtc-visualize`.

`selection` chooses clip, keyframe and people; `inside` looks into a network; `figures` draws, on what `panels` offers.
"""
