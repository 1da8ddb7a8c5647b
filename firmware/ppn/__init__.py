"""What a board runs, in MicroPython; the host imports the same codec of frames and messages.

At a board's prompt: ``import ppn; u = ppn.solver("poisson2d"); u(0.3, 0.7)``.
"""


def solver(name: str) -> object:
    """The trained solver in the file ``NAME.ppn``, a function of a point's coordinates; see ``ppn.trained.Trained``."""
    from .trained import Trained  # only who asks for one pays for it

    return Trained(name)
