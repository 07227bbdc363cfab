"""List and export the opt-outs that reach a sender."""
