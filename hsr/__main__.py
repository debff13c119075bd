# SPDX-License-Identifier: Apache-2.0
"""`python -m hsr` is the `hsr` command."""

from .cli import main

if __name__ == "__main__":
    main()
