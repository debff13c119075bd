# SPDX-License-Identifier: Apache-2.0
"""`hsr evaluate`: generators measured beside each other, with the same codes.

command     from options to results
subjects    the generators, and the codes and classes that they get
features    features of real and generated images; those of real ones are cached
learning    classifiers of attributes, learned from real images
edits       latent edits, and what a classifier says of their frames
alignment   how well generator features predict those of an encoder
evaluation  the metrics, each of them for all generators
results     what was found, as a table and as JSON
"""
