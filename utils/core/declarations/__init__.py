"""Every table of the study, declared by the part of the study that writes it."""
