"""What a network is made of: its calls, what each costs, what each sees, what a cut at each would sever."""
