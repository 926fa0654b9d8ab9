"""What a fit refuses.

Rejected
└── RunFailed  a run cannot give a candidate; trying it again will not help
"""

from trimtab_runtime.errors import Rejected


class RunFailed(Rejected):
    """This run cannot give a candidate."""
