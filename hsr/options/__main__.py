# SPDX-License-Identifier: Apache-2.0
"""`python -m hsr.options` prints docs/options.md."""

from .page import options_page

if __name__ == "__main__":
    print(options_page(), end="")
