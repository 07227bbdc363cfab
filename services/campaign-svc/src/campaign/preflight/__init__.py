"""Before a campaign is sent: reach, cost, end, findings, approval."""
