"""Where models are found: the Hugging Face Hub or a folder, behind one protocol."""
