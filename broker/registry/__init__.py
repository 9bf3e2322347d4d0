"""The only writer of partners, tenants, applications, roles, providers, targets and domains.

One module per entity. Each holds what must be true of its rows whoever asks, records what changed in the log
of the tenant it concerns, and works inside the unit of work its caller opened. Who may ask is the doors'
question; people and groups are `directory`'s, tokens are `credentials`'.
"""
