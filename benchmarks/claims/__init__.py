# SPDX-License-Identifier: Apache-2.0
"""`python -m benchmarks.claims`: does HSR make latent spaces smoother and more linear? Measured, with its controls.

presets     the data sets, networks and lengths
arms        what is compared: the baseline, HSR, and HSR with teachers that know nothing
training    a warm start for each seed, and every arm from that same start
measuring   the metrics of all arms of a seed, with the same codes
statistics  paired differences over seeds, their intervals, and how many seeds a difference takes
command     all of it, in processes side by side, resumable
findings    what came out, over the seeds
page        the page of it, as HTML and Markdown; `pictures` draws
values      every value as JSON, and the seeds of such a file again
"""
