"""What the job costs, measured side by side with the tools that people would use instead."""
