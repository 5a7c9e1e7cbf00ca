"""Direct Feedback Alignment (Launay, Poli, Boniface & Krzakala 2020), and over peers."""
