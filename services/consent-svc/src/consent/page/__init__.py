"""The preference page: what a person sees and decides behind a short link. Server-rendered, no script, no third party.

link.py     the short link: signed, expiring (pure)
view.py     what the page shows of what is held (pure)
words.py    its words, fr.json and en.json (pure)
routes.py   the page itself, and the call that makes a link
*.html      the markup; page.css the looks, inlined under a hash in the content policy
"""
