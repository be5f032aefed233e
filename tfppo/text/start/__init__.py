"""What a text run starts with: its models, its prompts, its reward, and checksums of these parts."""
