"""Training: objectives, loss weights, timesteps and LoRA layers, without ComfyUI."""
