# SPDX-License-Identifier: Apache-2.0
"""The way of a call: which backend it runs on, and how it gets there.

request     what is asked for, by the program or by environment variables
native      what is there: extensions, Triton, a GPU
measured    what is faster on this GPU, as far as it was measured
operators   the choice, once per call of a public function
library     the native operators that the chosen backend runs
functions   the autograd Functions around them
replay      calls that are repeated without all of this
explain     what can be asked about it
"""

from . import measured, native, operators, replay, request


def reset_choices() -> None:
    """Forgets all that was looked up and chosen, so that the next call looks again.

    That is: the environment variables HSR_KERNELS_BACKEND, HSR_KERNELS_ROUTE and HSR_KERNELS_MEASURED, the table of
    measurements, what was missing, the backends chosen, remembered calls and warnings given. What `use_backend` and
    `use_route` asked for stays, and so do extensions that are loaded.
    """
    for setting in request.SETTINGS:
        setting.reset()
    for module in (native, measured, operators, replay):
        module.reset()
