"""The preference page, where a person sees and changes their consents. Server-rendered, no script, no third party.

page.css is inlined under a hash in the content policy.
"""
