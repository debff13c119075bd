# SPDX-License-Identifier: Apache-2.0
"""Projection: the latent code and the noise whose image is nearest to a photo.

objective      distance of an image from the photo, and correlation of noise
optimization   search for the code and the noise
photo          from a photo's file to what a generator could have made
command        hsr project
"""
