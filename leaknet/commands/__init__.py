"""The commands of `leak`, in modules of one or two; heavy imports happen inside a command."""
