"""What developers run: the environment, the real ComfyUI, the demo, the tests. Never packed."""
