"""Questions put to a net itself: whether its shortcuts are what its config says, and what they do.

Works on built nets, whose blocks are plain attributes, and on the programs that training traces.
"""
