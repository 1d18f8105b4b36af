"""How well a checkpoint edits: against true pictures of rendered heads, and by a judge's curves on real clips.

`rendered` and `leak` need the package numba and an ICT-FaceKit export, `clips` needs neither. Pictures are *frames*:
tensors [N, S, S, 3] on the CPU.
"""
