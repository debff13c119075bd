# SPDX-License-Identifier: Apache-2.0
"""The one exception that means: the input, not the program, is at fault."""


class UserError(Exception):
    """A problem that the user can solve, told in one sentence.

    The command line prints the message and exits with code 2, without a traceback.
    """
