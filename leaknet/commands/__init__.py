"""The commands of `leak`, one module each; every heavy import happens inside a command."""
