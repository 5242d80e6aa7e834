"""Operations that degrade images, chains of them, and folders of degraded copies."""
