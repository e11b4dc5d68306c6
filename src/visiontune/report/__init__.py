"""What people look at: the plan, the table of results, pictures, the report page."""
