"""The preference page, where a person sees and changes their consents. Server-rendered, no script, no third party.

link.py     the short link: signed, expiring (pure)
view.py     the content of the page, from the records (pure)
copies.py   a copy of that content, as JSON or CSV (pure)
words.py    the sentences, from fr.json and en.json (pure)
routes.py   the page over HTTP, and the call that makes a link
confirm.py  the page behind the link of a double opt-in
*.html      the markup; page.css the style, inlined under a hash in the content policy
"""
