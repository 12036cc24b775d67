"""The gateway's parts, one by one."""
