"""What people read: the plan, tables of results, the report page."""
