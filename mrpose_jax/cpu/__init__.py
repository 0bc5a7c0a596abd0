"""What XLA's CPU backend wants, behind one door.

`door.py` is the entrance, and `runtime/compilation.py` alone uses it. The networks are plain Flax;
in programs that are compiled for a CPU, the door answers the calls of some of their layers with
other forms of the same functions. Programs for other platforms, exported and planned ones hold no
trace of it.
"""
