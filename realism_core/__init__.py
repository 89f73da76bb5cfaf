"""The shared torch core of Realism Kit: image realism measures, evidence and gates, with no ComfyUI in it."""

__version__ = "0.1.0"
