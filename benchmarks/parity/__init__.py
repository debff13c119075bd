# SPDX-License-Identifier: Apache-2.0
"""Whether an operator is right: the tests' one rule, which is also what has to hold before anything is timed.

call         one call of an operator, described
inputs       draws its tensors, away from kinks, and differentiates
tolerances   the rule: how far from the float64 reference a result may be
gate         what has to be right before it is timed, on ordinary and on adversarial inputs
"""
