"""State beyond one worker: Redis, and the folder that the workers of an instance share."""
