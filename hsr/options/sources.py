# SPDX-License-Identifier: Apache-2.0
"""Where the settings and options come from: the papers, and the code released with them, that introduced them."""

# Papers, by the names that `SOURCES` gives them.
REFERENCES = {
    "Heusel et al. 2017": "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium",
    "Karras et al. 2018 (PGGAN)": "Progressive Growing of GANs for Improved Quality, Stability, and Variation",
    "Miyato and Koyama 2018": "cGANs with Projection Discriminator",
    "Mescheder et al. 2018": "Which Training Methods for GANs do actually Converge?",
    "Karras et al. 2019 (StyleGAN)": "A Style-Based Generator Architecture for Generative Adversarial Networks",
    "Kynkäänniemi et al. 2019": "Improved Precision and Recall Metric for Assessing Generative Models",
    "Naeem et al. 2020": "Reliable Fidelity and Diversity Metrics for Generative Models",
    "Karras et al. 2020 (StyleGAN2)": "Analyzing and Improving the Image Quality of StyleGAN",
    "Karras et al. 2020 (ADA)": "Training Generative Adversarial Networks with Limited Data",
    "Mo et al. 2020 (Freeze-D)": "Freeze the Discriminator: a Simple Baseline for Fine-Tuning GANs",
    "Karras et al. 2021 (StyleGAN3)": "Alias-Free Generative Adversarial Networks",
    "Härkönen et al. 2020 (GANSpace)": "GANSpace: Discovering Interpretable GAN Controls",
    "Shen et al. 2020 (InterFaceGAN)": (
        "InterFaceGAN: Interpreting the Disentangled Face Representation Learned by GANs"
    ),
    "Shen and Zhou 2021 (SeFa)": "Closed-Form Factorization of Latent Semantics in GANs",
    "Wu et al. 2021 (StyleSpace)": "StyleSpace Analysis: Disentangled Controls for StyleGAN Image Generation",
    "Caron et al. 2021 (DINO)": "Emerging Properties in Self-Supervised Vision Transformers",
    "Karmali et al. 2022 (HSR)": "Hierarchical Semantic Regularization of Latent Spaces in StyleGANs",
    "Singh et al. 2025 (iREPA)": "arXiv 2512.10794",
}

# The source of what isn't in `SOURCES`.
OWN_SOURCE = "ours"

_PGGAN = "Karras et al. 2018 (PGGAN)"
_STYLEGAN = "Karras et al. 2019 (StyleGAN)"
_STYLEGAN2 = "Karras et al. 2020 (StyleGAN2)"
_ADA = "Karras et al. 2020 (ADA)"
_HSR = "Karmali et al. 2022 (HSR)"
_IREPA = "Singh et al. 2025 (iREPA)"

# The source of what each preset has its own value of.
_PRESET_SOURCE = "that of the preset"

# By the name of a setting, or else as "<command>.<field>" of an option that is none.
SOURCES = {
    "mirror": f"{_ADA} flips images; the rule is ours",
    "conditional": f"Miyato and Koyama 2018; {_ADA}",
    "z_dim": _STYLEGAN,
    "w_dim": _STYLEGAN,
    "mapping_layers": _STYLEGAN,
    "mapping_lr_multiplier": f"{_STYLEGAN}, appendix C",
    "w_avg_beta": "Karras et al. 2021 (StyleGAN3), code",
    "label_mapping_layers": f"{_ADA}, appendix C",
    "label_dim": "Miyato and Koyama 2018",
    "channel_base": f"{_STYLEGAN2}, code",
    "channel_max": f"{_STYLEGAN2}, code",
    "minibatch_std_group": f"{_PGGAN}, section 3; groups: its code",
    "residual_discriminator": f"{_STYLEGAN2}, section 4.1",
    "mixed_precision": f"{_ADA} for fp16; bf16 is ours",
    "mixed_precision_resolutions": _ADA,
    "conv_clamp": _ADA,
    "gamma": f"Mescheder et al. 2018; the weight: {_PRESET_SOURCE}",
    "r1_interval": f"{_STYLEGAN2}, section 3.1",
    "path_length_weight": f"{_STYLEGAN2}, section 3.2; value: {_ADA}, code",
    "path_length_interval": f"{_STYLEGAN2}, section 3.1; value: {_ADA}, code",
    "style_mixing": f"{_STYLEGAN}, section 3.1",
    "hsr_weight": _HSR,
    "hsr_scales": _HSR,
    "hsr_head": f"{_HSR} for mlp, {_IREPA} for conv3x3",
    "hsr_hidden": _HSR,
    "hsr_loss": _HSR,
    "hsr_targets": f"{_IREPA} for spatial-norm",
    "hsr_spatial_gamma": _IREPA,
    "hsr_learning_rate": _HSR,
    "hsr_class_token": f"{_HSR}, code",
    "encoder": f"{_HSR}; DINO: Caron et al. 2021 (DINO); lite0 and labels are ours",
    "encoder_statistics": f"{_HSR}, code, for official",
    "augmentation": f"{_ADA}, section 3",
    "augmentation_pipe": f"{_ADA}, section 2 and appendix B",
    "augmentation_p": f"{_ADA}, section 2",
    "augmentation_target": f"{_ADA}, section 3",
    "ada_interval": f"{_ADA}, section 3",
    "ada_kimg": f"{_ADA}, section 3; after a start from weights: its code",
    "frozen_layers": "Mo et al. 2020 (Freeze-D)",
    "batch": _PRESET_SOURCE,
    "learning_rate": f"{_STYLEGAN2}, appendix B; others: {_PRESET_SOURCE}",
    "beta1": f"{_STYLEGAN2}, appendix B",
    "beta2": f"{_STYLEGAN2}, appendix B",
    "ema_kimg": f"{_PGGAN}; value: {_ADA}, code",
    "ema_rampup": f"{_ADA}, code",
    "metrics": (
        "frechet: Heusel et al. 2017; precision, recall: Kynkäänniemi et al. 2019; density, coverage: Naeem et al. "
        f"2020; ppl_w: {_STYLEGAN}, section 4.1, and {_STYLEGAN2}"
    ),
    "kimg": _PRESET_SOURCE,
    "train.cfg": f"{_HSR}: paper256; {_ADA}: the other published ones, and rules of auto; digits is ours",
    "train.hsr_from": _HSR,
    "train.resume": f"start from weights: {_ADA}; the rest is ours",
    "generate.truncation": f"{_STYLEGAN}, appendix B",
    "directions.method": (
        "ganspace: Härkönen et al. 2020; sefa: Shen and Zhou 2021; interfacegan: Shen et al. 2020; "
        "stylespace: Wu et al. 2021"
    ),
    "directions.preserve": "Shen et al. 2020 (InterFaceGAN), section 3.2",
    "edit.truncation": f"{_STYLEGAN}, appendix B",
    "mix.layers": f"{_STYLEGAN}, section 3.1",
    "mix.truncation": f"{_STYLEGAN}, appendix B",
}
