"""DPE: pose and expression editing of people in video, each without touching the other."""
