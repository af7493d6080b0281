"""Masks of tissue, of the brain as far as its phase is reliable, and of the reliable field around it."""
