"""What operators live with: health, metrics, commands; beside the walk, never through it."""
